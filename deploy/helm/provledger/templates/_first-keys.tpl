{{/* The pod of the Job that registers the first keys. The Job is called after it, so that it holds nothing
       that changes without a reason to run again, such as the version of the chart. */}}
{{- define "provledger.firstKeysPod" -}}
{{- $first := .Values.firstKeys -}}
{{- $one := dict "root" . "name" "first-keys" -}}
metadata:
  labels:
    {{- include "provledger.selector" $one | nindent 4 }}
spec:
  serviceAccountName: {{ include "provledger.serviceAccount" (dict "root" . "name" "firstKeys") }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  restartPolicy: OnFailure
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  containers:
    - name: first-keys
      image: {{ include "provledger.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      command: [python, -m, provledger_cli.keys_main, init, --json]
      env:
        {{- range $purpose := list "witness" "checkpoint" "head" "receipt" "recovery" }}
        {{- with index $first $purpose }}
        - name: PROVLEDGER_FIRST_{{ upper $purpose }}
          value: {{ . | quote }}
        {{- end }}
        {{- end }}
        - name: PROVLEDGER_FIRST_KEY_DIR
          value: /etc/provledger/keys
        - name: PROVLEDGER_ENDPOINT
          value: "keys={{ include "provledger.address" (dict "root" . "name" "keys") }} ledger={{ include "provledger.address" (dict "root" . "name" "ledger") }}"
        - name: PROVLEDGER_TIMEOUT
          value: "60"
        - name: PROVLEDGER_TLS_CERT
          value: /etc/provledger/tls/tls.crt
        - name: PROVLEDGER_TLS_KEY
          value: /etc/provledger/tls/tls.key
        - name: PROVLEDGER_TLS_CA
          value: /etc/provledger/tls/ca.crt
        {{- include "provledger.commonEnv" . | nindent 8 }}
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
      resources:
        {{- toYaml $first.resources | nindent 8 }}
      volumeMounts:
        - {name: run, mountPath: /run/provledger}
        - {name: tmp, mountPath: /tmp}
        - {name: tls, mountPath: /etc/provledger/tls, readOnly: true}
        {{- if or .Values.keyFiles.secret $first.recoverySecret }}
        - {name: keys, mountPath: /etc/provledger/keys, readOnly: true}
        {{- end }}
        {{- with $first.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - {name: run, emptyDir: {sizeLimit: 256Mi}}
    - {name: tmp, emptyDir: {sizeLimit: 256Mi}}
    - name: tls
      secret: {secretName: {{ $first.tls.secret }}, defaultMode: 0440}
    {{- if or .Values.keyFiles.secret $first.recoverySecret }}
    - name: keys
      projected:
        defaultMode: 0440
        sources:
          {{- range compact (list .Values.keyFiles.secret $first.recoverySecret) }}
          - secret: {name: {{ . }}}
          {{- end }}
    {{- end }}
    {{- with $first.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
